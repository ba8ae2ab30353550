-- The scripts without spaces, and the signs that the tokenizer takes for letters, being older than they (emoji, mostly),
-- as ranges: search/letters.py.
CREATE TABLE chat_letters AS SELECT
    '[' ||
    char(3585, 45, 3642, 3648, 45, 3662, 3713, 45, 3790, 3804, 45, 3807, 4096, 45, 4159, 4176, 45, 4253, 4352, 45,
        4607, 6016, 45, 6099, 6103, 12293, 45, 12295, 12337, 45, 12341, 12347, 12353, 45, 12438, 12445, 45, 12447,
        12449, 45, 12538, 12540, 45, 12591, 12593, 45, 12686, 12784, 45, 12799, 13312, 45, 19903, 19968, 45, 40959,
        44032, 45, 55203, 63744, 45, 64255, 65382, 45, 65439, 131072, 45, 262143)
    || ']' AS joined,
    '[' ||
    char(3585, 45, 3642, 3648, 45, 3662, 3713, 45, 3790, 3804, 45, 3807, 4096, 45, 4159, 4176, 45, 4253, 4352, 45,
        4607, 6016, 45, 6099, 6103, 12293, 45, 12295, 12337, 45, 12341, 12347, 12353, 45, 12438, 12445, 45, 12447,
        12449, 45, 12538, 12540, 45, 12591, 12593, 45, 12686, 12784, 45, 12799, 13312, 45, 19903, 19968, 45, 40959,
        44032, 45, 55203, 63744, 45, 64255, 65382, 45, 65439, 131072, 45, 262143, 1419, 45, 1422, 1525, 45, 1541,
        1564, 1565, 1806, 8191, 8293, 45, 8297, 8378, 45, 8447, 9204, 45, 9215, 9255, 45, 9311, 9984, 11085, 45,
        11263, 11836, 45, 12287, 13055, 65107, 65127, 65280, 65511, 45, 65528, 127020, 45, 127231, 127279, 45, 129791)
    || ']' AS apart;

-- No text is kept here a second time. Rows go by id, which is the order of time: the newest are found first. `words`:
-- without the scripts that have no spaces, whose characters are in `grams`, three together from each place on, in
-- hexadecimal. `about`: what filters ask for.
CREATE VIRTUAL TABLE chat_found USING fts5 (
    words, grams, about, content='', columnsize=0, prefix='2 3 4 5 6', tokenize='unicode61 remove_diacritics 2'
);

-- What goes in (verb is null) or out of it (verb is 'delete', and all has to be said as it was put in). A view that
-- nobody reads, so that each step has what the one before it made; most of what is said is ASCII, and ready at once.
CREATE VIEW chat_indexing AS SELECT NULL AS verb, NULL AS id, NULL AS about, NULL AS text;

CREATE TRIGGER chat_indexing_plain INSTEAD OF INSERT ON chat_indexing WHEN NEW.text NOT GLOB '*[^ -~]*'
BEGIN
    INSERT INTO chat_found (chat_found, rowid, words, grams, about) VALUES (NEW.verb, NEW.id, NEW.text, '', NEW.about);
END;

CREATE VIEW chat_indexing_folded AS SELECT NULL AS verb, NULL AS id, NULL AS about, NULL AS text;

-- The tokenizer folds most; here is done what it does not do.
CREATE TRIGGER chat_indexing_folds INSTEAD OF INSERT ON chat_indexing WHEN NEW.text GLOB '*[^ -~]*'
BEGIN
    INSERT INTO chat_indexing_folded (verb, id, about, text)
    SELECT NEW.verb, NEW.id, NEW.about,
        replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(folding, char(8205), ''),
            char(1600), ''), char(1611), ''), char(1612), ''), char(1613), ''), char(1614), ''), char(1615), ''),
            char(1616), ''), char(1617), ''), char(1618), '')
    FROM (SELECT
        replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(folding, char(273), 'd'),
            char(272), 'd'), char(305), 'i'), char(1105), char(1077)), char(1025), char(1077)),
            char(1571), char(1575)), char(1573), char(1575)), char(1570), char(1575)), char(173), ''),
            char(8204), '') AS folding
    FROM (SELECT
        replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(NEW.text, char(223), 'ss'),
            char(7838), 'ss'), char(230), 'ae'), char(198), 'ae'), char(339), 'oe'), char(338), 'oe'),
            char(248), 'o'), char(216), 'o'), char(322), 'l'), char(321), 'l') AS folding));
END;

-- json_each counts the characters.
CREATE TRIGGER chat_indexing_cuts INSTEAD OF INSERT ON chat_indexing_folded
BEGIN
    INSERT INTO chat_found (chat_found, rowid, words, grams, about)
    SELECT NEW.verb, NEW.id,
        CASE WHEN NEW.text GLOB '*' || apart || '*' THEN (
            SELECT group_concat(iif(letter >= char(1419) AND letter GLOB apart, ' ', letter), '')
            FROM (SELECT substr(NEW.text, key + 1, 1) AS letter
            FROM json_each('[' || rtrim(replace(hex(zeroblob(length(NEW.text))), '00', '0,'), ',') || ']'))
        ) ELSE NEW.text END,
        CASE WHEN NEW.text GLOB '*' || joined || '*' THEN (
            SELECT group_concat(hex(substr(gram, 1, 1 + (gram GLOB two) + (gram GLOB three))), ' ')
            FROM (SELECT substr(NEW.text, key + 1, 3) AS gram
            FROM json_each('[' || rtrim(replace(hex(zeroblob(length(NEW.text))), '00', '0,'), ',') || ']'))
            WHERE gram GLOB one
        ) ELSE '' END,
        NEW.about
    FROM (SELECT joined, apart, joined || '*' AS one, joined || joined || '*' AS two, joined || joined || joined AS three
        FROM chat_letters);
END;

-- What of chat_messages is found: neither what is deleted nor what is hidden.
CREATE VIEW chat_indexed AS
SELECT id, 'r' || room || ' u' || hex(coalesce(sender, '')) || ' l' || hex(lang)
        || iif(text LIKE '%http://%' OR text LIKE '%https://%' OR text LIKE '%www.%', ' hlink', '')
        || iif(instr(content, '"attachments":[{'), ' hattachment', '') AS about, text
FROM chat_messages WHERE deleted_ms = 0 AND hidden_ms = 0;

INSERT INTO chat_indexing (id, about, text) SELECT id, about, text FROM chat_indexed;

CREATE TRIGGER chat_search_said AFTER INSERT ON chat_messages
BEGIN
    INSERT INTO chat_indexing (id, about, text) SELECT id, about, text FROM chat_indexed WHERE id = NEW.id;
END;

CREATE TRIGGER chat_search_changes BEFORE UPDATE OF room, sender, text, lang, content, deleted_ms, hidden_ms
ON chat_messages
BEGIN
    INSERT INTO chat_indexing (verb, id, about, text)
    SELECT 'delete', id, about, text FROM chat_indexed WHERE id = OLD.id;
END;

CREATE TRIGGER chat_search_changed AFTER UPDATE OF room, sender, text, lang, content, deleted_ms, hidden_ms
ON chat_messages
BEGIN
    INSERT INTO chat_indexing (id, about, text) SELECT id, about, text FROM chat_indexed WHERE id = NEW.id;
END;

CREATE TRIGGER chat_search_goes BEFORE DELETE ON chat_messages
BEGIN
    INSERT INTO chat_indexing (verb, id, about, text)
    SELECT 'delete', id, about, text FROM chat_indexed WHERE id = OLD.id;
END;

-- Words that may have a stem, and what was said since they were listed; and what was unsaid, whose words may be nobody's
-- any more. `pruned` counts how often words were taken from the list, `unsaid` how often something was taken out of the
-- index, which it may still have, and `merged` how much of that it has no more: search/forms.py, search/leftovers.py.
CREATE TABLE chat_words (word text PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE chat_unlisted (n INTEGER PRIMARY KEY AUTOINCREMENT, message bigint NOT NULL);
CREATE TABLE chat_unsaid (n INTEGER PRIMARY KEY AUTOINCREMENT, text text NOT NULL);
CREATE TABLE chat_listing (
    pruned bigint NOT NULL DEFAULT 0, unsaid bigint NOT NULL DEFAULT 0, merged bigint NOT NULL DEFAULT 0,
    merged_ms bigint NOT NULL DEFAULT 0
);

INSERT INTO chat_listing DEFAULT VALUES;
INSERT INTO chat_unlisted (message) SELECT id FROM chat_messages;

CREATE TRIGGER chat_words_said AFTER INSERT ON chat_messages
BEGIN
    INSERT INTO chat_unlisted (message) VALUES (NEW.id);
END;

CREATE TRIGGER chat_words_changed AFTER UPDATE OF id, text, hidden_ms ON chat_messages WHEN NEW.text <> ''
BEGIN
    INSERT INTO chat_unlisted (message) VALUES (NEW.id);
END;

CREATE TRIGGER chat_words_unsaid AFTER UPDATE OF text, sender, hidden_ms ON chat_messages WHEN OLD.text <> ''
BEGIN
    INSERT INTO chat_unsaid (text) VALUES (OLD.text);
    UPDATE chat_listing SET unsaid = unsaid + 1;
END;

CREATE TRIGGER chat_words_gone AFTER DELETE ON chat_messages WHEN OLD.text <> ''
BEGIN
    INSERT INTO chat_unsaid (text) VALUES (OLD.text);
    UPDATE chat_listing SET unsaid = unsaid + 1;
END;
