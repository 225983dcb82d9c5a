"""Files for BLIS: `defaults.yaml`, `hardware_config.json`, command lines, traces, and a check with BLIS itself."""
