PRAGMA cache_size = -65536;
CREATE TABLE parts(id INTEGER PRIMARY KEY, code TEXT, price INTEGER, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
INSERT INTO parts SELECT i, printf('%08x', (i * 2654435761) % 4294967296), (i * 7919) % 10007,
    printf('%0*d', 100 + i % 80, i) FROM n;
CREATE INDEX parts_code ON parts(code);
CREATE TABLE hits(i INTEGER PRIMARY KEY, price INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
INSERT INTO hits SELECT n.i, parts.price FROM n
    JOIN parts ON parts.code = printf('%08x', (((n.i * 48271) % 9000 + 1) * 2654435761) % 4294967296);
UPDATE parts SET price = price + 1 WHERE id % 7 = 3;
SELECT count(*), sum(price) FROM hits;
SELECT price / 1000, count(*), max(note) FROM parts GROUP BY 1;
