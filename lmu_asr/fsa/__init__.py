"""Topologies, decoding graphs and the engines behind them."""
