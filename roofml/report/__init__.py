"""One HTML file of a calibration and its runs, to send and to print: no server, nothing fetched."""
