\set a random(1, 20)
SELECT bench.replay('Account', :a);
