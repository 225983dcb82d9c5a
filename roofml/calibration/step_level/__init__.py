"""Step-level fits: sampled engine steps as measurements, alone or beside requests' latencies."""
