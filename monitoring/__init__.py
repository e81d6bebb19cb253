"""Is it still right: data quality, drift, performance with late labels, and what follows from them.

`window.watch` is one pass; `decide.decide` is the decision alone; `report.write_report` draws a window on demand. The
room sees frames and instants; it knows nothing of lakes, databases, models or flows.
"""
