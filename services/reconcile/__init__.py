"""The audit: find what a lost event left behind, and enqueue the work that repairs it."""
