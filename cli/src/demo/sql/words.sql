-- Unpacks the word lists. $1: the whole of words.json.
WITH words AS (
    SELECT $1::jsonb AS doc
), people AS (
    INSERT INTO demo_people (first_names, last_names, cities, countries)
    SELECT ARRAY(SELECT jsonb_array_elements_text(doc -> 'first_names')),
           ARRAY(SELECT jsonb_array_elements_text(doc -> 'last_names')),
           ARRAY(SELECT jsonb_array_elements_text(doc -> 'cities')),
           ARRAY(SELECT jsonb_array_elements_text(doc -> 'countries'))
    FROM words
)
INSERT INTO demo_trade (number, name, collections, kinds, things, option, choices, price_min, price_max)
SELECT trade.position - 1,
       trade.doc ->> 'name',
       ARRAY(SELECT jsonb_array_elements_text(trade.doc -> 'collections')),
       ARRAY(SELECT jsonb_array_elements_text(trade.doc -> 'kinds')),
       ARRAY(SELECT jsonb_array_elements_text(trade.doc -> 'things')),
       trade.doc ->> 'option',
       ARRAY(SELECT jsonb_array_elements_text(trade.doc -> 'values')),
       (trade.doc ->> 'price_min')::integer,
       (trade.doc ->> 'price_max')::integer
FROM words, jsonb_array_elements(words.doc -> 'trades') WITH ORDINALITY AS trade (doc, position)
