def routes(service): return []
