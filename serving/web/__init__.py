"""The status page: server-rendered, from the platform's database alone."""
