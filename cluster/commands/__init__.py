"""The commands of `moelab`, one file each."""
