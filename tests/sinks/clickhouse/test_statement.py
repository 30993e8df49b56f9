import pytest

from driftline.sinks.clickhouse.embedded.statement import Insert, Query, Statement, Unsupported, parse


@pytest.mark.parametrize(
    ("query", "body", "expected"),
    [
        (b"SELECT 1", b"", Query(b"SELECT 1")),
        (b"", b"SELECT 1", Query(b"SELECT 1")),
        (b"SELECT 1", b"FORMAT JSON", Query(b"SELECT 1\nFORMAT JSON", "JSON")),
        (b"SELECT 1 format Native", b"", Query(b"SELECT 1 format Native", "Native")),
        (b"SELECT 'FORMAT JSON'", b"", Query(b"SELECT 'FORMAT JSON'")),
        (b"SELECT format('{}', 1)", b"", Query(b"SELECT format('{}', 1)")),
        (b"SELECT 1 /* FORMAT JSON */ -- FORMAT CSV", b"", Query(b"SELECT 1 /* FORMAT JSON */ -- FORMAT CSV")),
        (b"INSERT INTO t FORMAT CSV", b"1,2\n", Insert(b"INSERT INTO t ", b"", "CSV", b"1,2\n")),
        (b"INSERT INTO t FORMAT CSV\n1,2\n", b"3,4\n", Insert(b"INSERT INTO t ", b"", "CSV", b"1,2\n3,4\n")),
        (b"", b"INSERT INTO t FORMAT CSV\n\n1\n", Insert(b"INSERT INTO t ", b"", "CSV", b"\n1\n")),
        (b"", b"insert into t format Native\r\n\x0a;\xff", Insert(b"insert into t ", b"", "Native", b"\x0a;\xff")),
        (b"", b'INSERT INTO t FORMAT JSONEachRow {"a":1}', Insert(b"INSERT INTO t ", b"", "JSONEachRow", b'{"a":1}')),
        (b"INSERT INTO t FORMAT CSV", b"", Insert(b"INSERT INTO t ", b"", "CSV", b"")),
        (
            b"",
            b"/* x */ INSERT INTO d.`format` (`a`, b) SETTINGS x = 'FORMAT' FORMAT TSV\n1\t2",
            Insert(b"/* x */ INSERT INTO d.`format` (`a`, b) ", b"SETTINGS x = 'FORMAT' ", "TSV", b"1\t2"),
        ),
        (b"INSERT INTO t VALUES", b"(1)", Insert(b"INSERT INTO t ", b"", "Values", b"(1)")),
        (
            b"INSERT INTO t VALUES (-1.5e3, 'now()', [NULL], {'a': true}), DEFAULT;",
            b"",
            Insert(b"INSERT INTO t ", b"", "Values", b"(-1.5e3, 'now()', [NULL], {'a': true}), DEFAULT"),
        ),
        (
            b"INSERT INTO t VALUES (f({'x': 1}), (1, ')')), ('(', 2);",
            b"",
            Query(b"INSERT INTO t   SELECT f({'x': 1}), (1, ')') UNION ALL SELECT '(', 2"),
        ),
        (b"INSERT INTO t FORMAT Values", b"(f('x'))", Query(b"INSERT INTO t   SELECT f('x')")),
        (
            b"INSERT INTO t VALUES (1), ({p:UInt8});",
            b"",
            Query(b"INSERT INTO t   SELECT 1 UNION ALL SELECT {p:UInt8}"),
        ),
        (
            b"INSERT INTO t SETTINGS x = 1 VALUES (`a`)",
            b"",
            Query(b"INSERT INTO t  SETTINGS x = 1  SELECT `a`"),
        ),
        (
            b"INSERT INTO values (format) VALUES (1)",
            b"",
            Insert(b"INSERT INTO values (format) ", b"", "Values", b"(1)"),
        ),
        (b"INSERT INTO d.format FORMAT CSV", b"1", Insert(b"INSERT INTO d.format ", b"", "CSV", b"1")),
        (b"INSERT INTO t SELECT 1", b"", Query(b"INSERT INTO t SELECT 1")),
        (b"", b"", Query(b"")),
    ],
)
def test_parse(query: bytes, body: bytes, expected: Statement) -> None:
    assert parse(query, body) == expected


@pytest.mark.parametrize(
    "sql", [b"INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", b"SELECT 1 INTO OUTFILE '/tmp/x' FORMAT CSV"]
)
def test_files_of_the_server_are_out_of_reach(sql: bytes) -> None:
    with pytest.raises(Unsupported):
        parse(sql, b"")


@pytest.mark.parametrize("piece", [b"/*", b"$a$b", b"'a", b"`", b'"\\', b"((", b"-- x\n", b"a", b"$", b"\\'"])
def test_a_long_text_is_no_statement_and_is_read_once(piece: bytes) -> None:
    """What goes on for ever, as whatever it begins, is not looked at to its end again and again: this test would not
    end."""
    with pytest.raises(Unsupported, match="262144 bytes"):
        parse(b"SELECT " + piece * 2**20, b"")
    assert parse(b"INSERT INTO t FORMAT CSV\n", piece * 2**20) == Insert(b"INSERT INTO t ", b"", "CSV", piece * 2**20)
