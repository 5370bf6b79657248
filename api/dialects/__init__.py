"""The five documented key surfaces. Each is the same small set of files; none knows another."""
