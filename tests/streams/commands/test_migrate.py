from click.testing import CliRunner

from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.cli import main


def test_check_repair_and_migrate(cli: CliRunner, clickhouse: ClickHouseConfig) -> None:
    def ran(*options: str) -> tuple[int, str]:
        result = cli.invoke(main, ["migrate", *options], catch_exceptions=False)
        return result.exit_code, result.output.strip()

    assert ran("--check") == (0, "as the migrations made them")
    assert ran() == (0, "up to date")
    with connect(clickhouse) as client:
        client.command("ALTER TABLE traces_raw DROP COLUMN user_id")
        client.command("DROP TABLE alerts")
    lacking = "traces_raw lacks the column user_id: `driftline migrate --repair` adds it, empty"
    code, told = ran("--check")
    assert (code, told.splitlines()) == (
        1,
        ["the view alerts is missing: `driftline migrate --repair` makes it anew", lacking],
    )
    code, told = ran()
    assert code == 78
    assert lacking in told
    code, told = ran("--repair")
    assert (code, [line.split()[:3] for line in told.splitlines()]) == (
        0,
        [["repaired:", "ALTER", "TABLE"], ["repaired:", "CREATE", "OR"]],
    )
    assert ran("--check")[0] == 0
    assert ran("--check", "--repair")[0] == 2
