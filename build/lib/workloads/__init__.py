"""What is asked of the machine: requests, generated and recorded routing, trace files, forecasts."""
