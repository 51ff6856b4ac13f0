"""What is asked of the machine: requests, batchers, generators and recorded routing."""
