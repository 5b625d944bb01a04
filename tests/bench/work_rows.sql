-- What the workload of sqlite3 runs: a million rows put in, indexed and asked for.
PRAGMA journal_mode = off;
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, value INTEGER);
INSERT INTO t
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
    SELECT i, 'name' || (i * 7919 % 1000003), i * 31 % 1009 FROM n;
CREATE INDEX by_value ON t (value);
SELECT count(*), sum(value), sum(length(name)) FROM t;
SELECT sum(n * value) FROM (SELECT value, count(*) AS n FROM t WHERE name LIKE '%7' GROUP BY value);
SELECT sum(id) FROM t WHERE value = 500;
