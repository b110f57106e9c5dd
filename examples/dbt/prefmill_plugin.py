"""Makes prefmill's macros known to the connection that dbt opens. Models run on cursors of it, so
the macros go into its database.
"""

from dbt.adapters.duckdb.plugins import BasePlugin

import prefmill.duckdb


class Plugin(BasePlugin):
    """What `plugins: [{module: prefmill_plugin}]` in profiles.yml names."""

    def configure_connection(self, conn):
        """Called once, when the connection is new."""
        prefmill.duckdb.install(conn, persistent=True)
