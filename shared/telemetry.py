"""What the services write about themselves: one structured line an event (Powertools Logger, JSON to stdout)."""

from aws_lambda_powertools import Logger

logger = Logger()
"""Name and level come from POWERTOOLS_SERVICE_NAME and LOG_LEVEL."""
