"""Bench: kernel measurements become the tables of `bench_data/`, imported from others or taken on this machine."""
