"""`moelab reproduce`: the published systems' figures beside ours, with a verdict and a reason for each."""
