"""What is run beside the service: benchmarks and replays."""
