-- Rows made, indexed, joined, updated and summed.
PRAGMA journal_mode = DELETE;
CREATE TABLE item (id INTEGER PRIMARY KEY, kind INTEGER, name TEXT, price REAL);
CREATE TABLE sale (item INTEGER, amount INTEGER, day INTEGER);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 15000)
INSERT INTO item SELECT i, i % 37, 'item ' || (i * 7919 % 100003), i * 0.25 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
INSERT INTO sale SELECT i * 7919 % 15000 + 1, i % 9 + 1, i % 365 FROM n;
COMMIT;
CREATE INDEX sale_item ON sale (item);
CREATE INDEX item_name ON item (name);
SELECT kind, count(*), sum(amount), round(sum(amount * price), 2)
  FROM item JOIN sale ON sale.item = item.id GROUP BY kind ORDER BY kind;
UPDATE sale SET amount = amount + 1 WHERE day % 7 = 3;
SELECT count(*), min(name), max(name) FROM item WHERE name LIKE 'item 5%';
DELETE FROM sale WHERE item IN (SELECT id FROM item WHERE kind = 5);
SELECT day, sum(amount) FROM sale GROUP BY day ORDER BY 2 DESC, 1 LIMIT 20;
