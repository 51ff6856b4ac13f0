"""The composition root: configs in, a run on a transport, results out, and the doors it is entered by."""
