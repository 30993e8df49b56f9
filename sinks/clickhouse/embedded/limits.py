"""What the engine's one user may do, told to the engine itself in ClickHouse's own configuration: deny by default.

The user has no right to any source outside of the data folder (files, addresses, processes), to no table engine but
those that keep data in the folder or in memory, and may change no setting but those named here.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

ENGINES = (
    *("MergeTree", "ReplacingMergeTree", "SummingMergeTree", "AggregatingMergeTree", "CollapsingMergeTree"),
    *("VersionedCollapsingMergeTree", "Memory", "Null", "View", "MaterializedView", "Log", "TinyLog"),
)
DATABASES = ("Atomic", "Memory")
GRANTS = (
    "SHOW, SELECT, INSERT, ALTER UPDATE, ALTER DELETE, ALTER COLUMN, ALTER INDEX, ALTER PROJECTION, ALTER CONSTRAINT, "
    "ALTER ORDER BY, ALTER SAMPLE BY, ALTER TTL, ALTER MATERIALIZE TTL, ALTER SETTINGS, ALTER VIEW, "
    "ALTER MODIFY COMMENT, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP DATABASE, DROP TABLE, DROP VIEW, TRUNCATE, "
    "OPTIMIZE, CHECK, KILL QUERY ON *.*",
    "CREATE TEMPORARY TABLE ON *.*",
    *(f"TABLE ENGINE ON {engine}" for engine in (*ENGINES, *DATABASES)),
)
MEMORY = 4 * 2**30  # bytes of all queries together: what a laptop can spare beside the roles
RESULT = 2**30  # bytes of an answer, which is made whole before it is sent
QUERY_S = 600  # the longest that a query may run; 60 unless it says otherwise
FIXED = {  # a statement stands in the text of another, which asks for its canonical form; VALUES are literals
    "max_query_size": 2**20,
    "input_format_values_interpret_expressions": 0,
    "max_temporary_data_on_disk_size_for_user": 16 * 2**30,
}
THREADS = 64  # of each kind, whatever a query asks for
BOUNDS = {  # what a query has unless it says otherwise, the least and the most; 0 would be without limit
    "max_memory_usage": (MEMORY, 1, MEMORY),
    "max_result_bytes": (RESULT, 1, RESULT),
    "max_execution_time": (60, 1, QUERY_S),
}
SETTINGS = re.compile(  # of queries and formats; none of them names a file or an address but those that hold text
    r"(max|min|optimize|group_by|join|date_time|output_format|input_format|format_csv|async_insert|wait|insert|"
    r"mutations|alter|use|cast|query_plan|enable|distributed_product|totals|prefer|materialize)_\w+"
    r"|(allow_suspicious|http_response|http_write|cancel_http)_\w+|(connect|receive|send)_timeout|log_queries"
    r"|union_default_mode|distributed_ddl_task_timeout|select_sequential_consistency"
    r"|readonly|final|limit|offset|extremes|priority|async_insert|session_timezone|log_comment|transform_null_in"
    r"|database|any_join_distinct_right_table_keys|do_not_merge_across_partitions_select_final"
)
NEVER = re.compile(  # other ways around the bounds, and those of the parser, which keep it from a stack's end
    r"max_memory_usage_\w+|max_untracked_memory|max_parser_\w+|max_(expanded_)?ast_\w+|max_temporary_\w+|max_query_size|max_sessions_for_user"
    r"|input_format_values_\w+"
)
THREAD_SETTINGS = re.compile(r"max_\w+_threads|max_threads(_for_indexes)?")
TEXTS = frozenset(
    {
        *("session_timezone", "log_comment", "insert_deduplication_token", "format_csv_null_representation"),
        "database",  # USE sets it
    }
)


def may_change(name: str, kind: str) -> bool:
    """Whether a request may change the setting. `kind` is the engine's name of its type."""
    if not SETTINGS.fullmatch(name) or NEVER.fullmatch(name):
        return False
    return name in TEXTS if kind in ("String", "Map") else True


def configuration(settings: Sequence[tuple[str, str]]) -> Path:
    """A configuration file in a folder of its own, for the engine's start. `settings`: name and type of each."""
    folder = Path(tempfile.mkdtemp(prefix="driftline-clickhouse-"))
    fixed = "".join(f"<{name}><const/></{name}>" for name, kind in settings if not may_change(name, kind))
    grants = "".join(f"<query>GRANT {escape(grant)}</query>" for grant in GRANTS)
    values = {**FIXED, "max_memory_usage_for_user": MEMORY, **{name: bound[0] for name, bound in BOUNDS.items()}}
    profile = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    bounds = "".join(f"<{name}><min>{low}</min><max>{high}</max></{name}>" for name, (_, low, high) in BOUNDS.items())
    bounds += "".join(
        f"<{name}><max>{THREADS}</max></{name}>" for name, _ in settings if THREAD_SETTINGS.fullmatch(name)
    )
    users = f"""<clickhouse>
<profiles><default>{profile}<constraints>{fixed}{bounds}</constraints></default></profiles>
<quotas><default/></quotas>
<users><default><no_password/><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
<grants>{grants}</grants></default></users></clickhouse>"""
    nowhere = escape(str(folder / "nowhere"))
    config = f"""<clickhouse>
<user_directories><users_xml><path>{escape(str(folder / "users.xml"))}</path></users_xml></user_directories>
<access_control_improvements><table_engines_require_grant>true</table_engines_require_grant></access_control_improvements>
<remote_url_allow_hosts/>
<allowed_disks_for_table_engines>default</allowed_disks_for_table_engines>
<custom_local_disks_base_directory>{nowhere}/</custom_local_disks_base_directory>
<user_files_path>{nowhere}/</user_files_path>
<user_scripts_path>{nowhere}/</user_scripts_path>
<format_schema_path>{nowhere}/</format_schema_path>
</clickhouse>"""
    for name, text in (("users.xml", users), ("config.xml", config)):
        with open(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    return folder / "config.xml"
