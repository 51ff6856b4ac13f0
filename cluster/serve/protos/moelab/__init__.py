"""The proto package `moelab`, by its versions."""
