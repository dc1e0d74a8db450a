"""The parts of the market-data replay, which `local.market_data_server` serves."""
