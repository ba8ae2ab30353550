-- What is the same in a search is written the same: as search/letters.py says, whatever the database's locale.
CREATE FUNCTION chat_fold(given text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN given ~ '[^ -~]' THEN translate(
            replace(replace(replace(replace(replace(replace(lower(given COLLATE "C")
            , E'\u00c6', 'ae'), E'\u0152', 'oe'), E'\u00df', 'ss'), E'\u1e9e', 'ss'), E'\u00e6', 'ae'), E'\u0153', 'oe'),
            E'ABCDEFGHIJKLMNOPQRSTUVWXYZ\u00c0\u00c1\u00c2\u00c3\u00c4\u00c5\u00c7\u00c8\u00c9\u00ca\u00cb'
            '\u00cc\u00cd\u00ce\u00cf\u00d0\u00d1\u00d2\u00d3\u00d4\u00d5\u00d6\u00d8\u00d9\u00da\u00db\u00dc'
            '\u00dd\u00de\u00e0\u00e1\u00e2\u00e3\u00e4\u00e5\u00e7\u00e8\u00e9\u00ea\u00eb\u00ec\u00ed\u00ee'
            '\u00ef\u00f1\u00f2\u00f3\u00f4\u00f5\u00f6\u00f9\u00fa\u00fb\u00fc\u00fd\u00ff\u0100\u0101\u0102'
            '\u0103\u0104\u0105\u0106\u0107\u0108\u0109\u010a\u010b\u010c\u010d\u010e\u010f\u0110\u0112\u0113'
            '\u0114\u0115\u0116\u0117\u0118\u0119\u011a\u011b\u011c\u011d\u011e\u011f\u0120\u0121\u0122\u0123'
            '\u0124\u0125\u0126\u0128\u0129\u012a\u012b\u012c\u012d\u012e\u012f\u0132\u0134\u0135\u0136\u0137'
            '\u0139\u013a\u013b\u013c\u013d\u013e\u013f\u0141\u0143\u0144\u0145\u0146\u0147\u0148\u014a\u014c'
            '\u014d\u014e\u014f\u0150\u0151\u0154\u0155\u0156\u0157\u0158\u0159\u015a\u015b\u015c\u015d\u015e'
            '\u015f\u0160\u0161\u0162\u0163\u0164\u0165\u0166\u0168\u0169\u016a\u016b\u016c\u016d\u016e\u016f'
            '\u0170\u0171\u0172\u0173\u0174\u0175\u0176\u0177\u0178\u0179\u017a\u017b\u017c\u017d\u017e\u0181'
            '\u0182\u0184\u0186\u0187\u0189\u018a\u018b\u018e\u018f\u0190\u0191\u0193\u0194\u0196\u0197\u0198'
            '\u019c\u019d\u019f\u01a0\u01a1\u01a2\u01a4\u01a6\u01a7\u01a9\u01ac\u01ae\u01af\u01b0\u01b1\u01b2'
            '\u01b3\u01b5\u01b7\u01b8\u01bc\u01c4\u01c5\u01c7\u01c8\u01ca\u01cb\u01cd\u01ce\u01cf\u01d0\u01d1'
            '\u01d2\u01d3\u01d4\u01d5\u01d6\u01d7\u01d8\u01d9\u01da\u01db\u01dc\u01de\u01df\u01e2\u01e4\u01e6'
            '\u01e7\u01e8\u01e9\u01ea\u01eb\u01ec\u01ed\u01ee\u01f0\u01f1\u01f2\u01f4\u01f5\u01f6\u01f7\u01f8'
            '\u01f9\u01fa\u01fb\u01fc\u01fe\u0200\u0201\u0202\u0203\u0204\u0205\u0206\u0207\u0208\u0209\u020a'
            '\u020b\u020c\u020d\u020e\u020f\u0210\u0211\u0212\u0213\u0214\u0215\u0216\u0217\u0218\u0219\u021a'
            '\u021b\u021c\u021e\u021f\u0220\u0222\u0224\u0226\u0227\u0228\u0229\u022a\u022b\u022c\u022d\u022e'
            '\u022f\u0230\u0231\u0232\u0233\u023a\u023b\u023d\u023e\u0241\u0243\u0244\u0245\u0246\u0248\u024a'
            '\u024c\u024e\u0370\u0372\u0376\u0386\u0388\u0389\u038a\u038c\u038e\u038f\u0391\u0392\u0393\u0394'
            '\u0395\u0396\u0397\u0398\u0399\u039a\u039b\u039c\u039d\u039e\u039f\u03a0\u03a1\u03a3\u03a4\u03a5'
            '\u03a6\u03a7\u03a8\u03a9\u03aa\u03ab\u03cf\u03d8\u03da\u03dc\u03de\u03e0\u03e2\u03e4\u03e6\u03e8'
            '\u03ea\u03ec\u03ee\u03f4\u03f7\u03f9\u03fa\u03fd\u03fe\u03ff\u0400\u0401\u0402\u0403\u0404\u0405'
            '\u0406\u0407\u0408\u0409\u040a\u040b\u040c\u040d\u040e\u040f\u0410\u0411\u0412\u0413\u0414\u0415'
            '\u0416\u0417\u0418\u0419\u041a\u041b\u041c\u041d\u041e\u041f\u0420\u0421\u0422\u0423\u0424\u0425'
            '\u0426\u0427\u0428\u0429\u042a\u042b\u042c\u042d\u042e\u042f\u0460\u0462\u0464\u0466\u0468\u046a'
            '\u046c\u046e\u0470\u0472\u0474\u0476\u0478\u047a\u047c\u047e\u0480\u048a\u048c\u048e\u0490\u0492'
            '\u0494\u0496\u0498\u049a\u049c\u049e\u04a0\u04a2\u04a4\u04a6\u04a8\u04aa\u04ac\u04ae\u04b0\u04b2'
            '\u04b4\u04b6\u04b8\u04ba\u04bc\u04be\u04c0\u04c1\u04c3\u04c5\u04c7\u04c9\u04cb\u04cd\u04d0\u04d2'
            '\u04d4\u04d6\u04d8\u04da\u04dc\u04de\u04e0\u04e2\u04e4\u04e6\u04e8\u04ea\u04ec\u04ee\u04f0\u04f2'
            '\u04f4\u04f6\u04f8\u04fa\u04fc\u04fe\u0500\u0502\u0504\u0506\u0508\u050a\u050c\u050e\u0510\u0512'
            '\u0514\u0516\u0518\u051a\u051c\u051e\u0520\u0522\u0524\u0526\u1e00\u1e01\u1e02\u1e03\u1e04\u1e05'
            '\u1e06\u1e07\u1e08\u1e09\u1e0a\u1e0b\u1e0c\u1e0d\u1e0e\u1e0f\u1e10\u1e11\u1e12\u1e13\u1e14\u1e15'
            '\u1e16\u1e17\u1e18\u1e19\u1e1a\u1e1b\u1e1c\u1e1d\u1e1e\u1e1f\u1e20\u1e21\u1e22\u1e23\u1e24\u1e25'
            '\u1e26\u1e27\u1e28\u1e29\u1e2a\u1e2b\u1e2c\u1e2d\u1e2e\u1e2f\u1e30\u1e31\u1e32\u1e33\u1e34\u1e35'
            '\u1e36\u1e37\u1e38\u1e39\u1e3a\u1e3b\u1e3c\u1e3d\u1e3e\u1e3f\u1e40\u1e41\u1e42\u1e43\u1e44\u1e45'
            '\u1e46\u1e47\u1e48\u1e49\u1e4a\u1e4b\u1e4c\u1e4d\u1e4e\u1e4f\u1e50\u1e51\u1e52\u1e53\u1e54\u1e55'
            '\u1e56\u1e57\u1e58\u1e59\u1e5a\u1e5b\u1e5c\u1e5d\u1e5e\u1e5f\u1e60\u1e61\u1e62\u1e63\u1e64\u1e65'
            '\u1e66\u1e67\u1e68\u1e69\u1e6a\u1e6b\u1e6c\u1e6d\u1e6e\u1e6f\u1e70\u1e71\u1e72\u1e73\u1e74\u1e75'
            '\u1e76\u1e77\u1e78\u1e79\u1e7a\u1e7b\u1e7c\u1e7d\u1e7e\u1e7f\u1e80\u1e81\u1e82\u1e83\u1e84\u1e85'
            '\u1e86\u1e87\u1e88\u1e89\u1e8a\u1e8b\u1e8c\u1e8d\u1e8e\u1e8f\u1e90\u1e91\u1e92\u1e93\u1e94\u1e95'
            '\u1e96\u1e97\u1e98\u1e99\u1ea0\u1ea1\u1ea2\u1ea3\u1ea4\u1ea5\u1ea6\u1ea7\u1ea8\u1ea9\u1eaa\u1eab'
            '\u1eac\u1ead\u1eae\u1eaf\u1eb0\u1eb1\u1eb2\u1eb3\u1eb4\u1eb5\u1eb6\u1eb7\u1eb8\u1eb9\u1eba\u1ebb'
            '\u1ebc\u1ebd\u1ebe\u1ebf\u1ec0\u1ec1\u1ec2\u1ec3\u1ec4\u1ec5\u1ec6\u1ec7\u1ec8\u1ec9\u1eca\u1ecb'
            '\u1ecc\u1ecd\u1ece\u1ecf\u1ed0\u1ed1\u1ed2\u1ed3\u1ed4\u1ed5\u1ed6\u1ed7\u1ed8\u1ed9\u1eda\u1edb'
            '\u1edc\u1edd\u1ede\u1edf\u1ee0\u1ee1\u1ee2\u1ee3\u1ee4\u1ee5\u1ee6\u1ee7\u1ee8\u1ee9\u1eea\u1eeb'
            '\u1eec\u1eed\u1eee\u1eef\u1ef0\u1ef1\u1ef2\u1ef3\u1ef4\u1ef5\u1ef6\u1ef7\u1ef8\u1ef9\u1efa\u1efc'
            '\u1efe\uff21\uff22\uff23\uff24\uff25\uff26\uff27\uff28\uff29\uff2a\uff2b\uff2c\uff2d\uff2e\uff2f'
            '\uff30\uff31\uff32\uff33\uff34\uff35\uff36\uff37\uff38\uff39\uff3a\u03c2\u00b5\u017f\u00f8\u0142'
            '\u0111\u0131\u0451\u0623\u0625\u0622\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u0309\u030a'
            '\u030b\u030c\u030f\u0311\u031b\u0323\u0324\u0325\u0326\u0327\u0328\u032d\u032e\u0330\u0331\u00ad'
            '\u200c\u200d\u0640\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652',
            E'abcdefghijklmnopqrstuvwxyzaaaaaaceeeeiiii\u00f0noooooouuuuy\u00feaaaaaaceeeeiiiinooooouuuuyyaaaa'
            'aaccccccccdddeeeeeeeeeegggggggghh\u0127iiiiiiii\u0133jjkkllllll\u0140lnnnnnn\u014boooooorrrrrrss'
            'sssssstttt\u0167uuuuuuuuuuuuwwyyyzzzzzz\u0253\u0183\u0185\u0254\u0188\u0256\u0257\u018c\u01dd'
            '\u0259\u025b\u0192\u0260\u0263\u0269\u0268\u0199\u026f\u0272\u0275oo\u01a3\u01a5\u0280\u01a8'
            '\u0283\u01ad\u0288uu\u028a\u028b\u01b4\u01b6\u0292\u01b9\u01bd\u01c6\u01c6\u01c9\u01c9\u01cc'
            '\u01ccaaiioouuuuuuuuuuaa\u01e3\u01e5ggkkoooo\u01efj\u01f3\u01f3gg\u0195\u01bfnnaa\u01fd\u01ffaaa'
            'aeeeeiiiioooorrrruuuusstt\u021dhh\u019e\u0223\u0225aaeeooooooooyy\u2c65\u023c\u019a\u2c66\u0242'
            '\u0180\u0289\u028c\u0247\u0249\u024b\u024d\u024f\u0371\u0373\u0377\u03ac\u03ad\u03ae\u03af\u03cc'
            '\u03cd\u03ce\u03b1\u03b2\u03b3\u03b4\u03b5\u03b6\u03b7\u03b8\u03b9\u03ba\u03bb\u03bc\u03bd\u03be'
            '\u03bf\u03c0\u03c1\u03c3\u03c4\u03c5\u03c6\u03c7\u03c8\u03c9\u03ca\u03cb\u03d7\u03d9\u03db\u03dd'
            '\u03df\u03e1\u03e3\u03e5\u03e7\u03e9\u03eb\u03ed\u03ef\u03b8\u03f8\u03f2\u03fb\u037b\u037c\u037d'
            '\u0450\u0435\u0452\u0453\u0454\u0455\u0456\u0457\u0458\u0459\u045a\u045b\u045c\u045d\u045e\u045f'
            '\u0430\u0431\u0432\u0433\u0434\u0435\u0436\u0437\u0438\u0439\u043a\u043b\u043c\u043d\u043e\u043f'
            '\u0440\u0441\u0442\u0443\u0444\u0445\u0446\u0447\u0448\u0449\u044a\u044b\u044c\u044d\u044e\u044f'
            '\u0461\u0463\u0465\u0467\u0469\u046b\u046d\u046f\u0471\u0473\u0475\u0477\u0479\u047b\u047d\u047f'
            '\u0481\u048b\u048d\u048f\u0491\u0493\u0495\u0497\u0499\u049b\u049d\u049f\u04a1\u04a3\u04a5\u04a7'
            '\u04a9\u04ab\u04ad\u04af\u04b1\u04b3\u04b5\u04b7\u04b9\u04bb\u04bd\u04bf\u04cf\u04c2\u04c4\u04c6'
            '\u04c8\u04ca\u04cc\u04ce\u04d1\u04d3\u04d5\u04d7\u04d9\u04db\u04dd\u04df\u04e1\u04e3\u04e5\u04e7'
            '\u04e9\u04eb\u04ed\u04ef\u04f1\u04f3\u04f5\u04f7\u04f9\u04fb\u04fd\u04ff\u0501\u0503\u0505\u0507'
            '\u0509\u050b\u050d\u050f\u0511\u0513\u0515\u0517\u0519\u051b\u051d\u051f\u0521\u0523\u0525\u0527'
            'aabbbbbbccddddddddddeeeeeeeeeeffgghhhhhhhhhhiiiikkkkkkllllllllmmmmmmnnnnnnnnoooooooopppprrrrrrrr'
            'ssssssssssttttttttuuuuuuuuuuvvvvwwwwwwwwwwxxxxyyzzzzzzhtwyaaaaaaaaaaaaaaaaaaaaaaaaeeeeeeeeeeeeee'
            'eeiiiioooooooooooooooooooooooouuuuuuuuuuuuuuyyyyyyyy\u1efb\u1efd\u1eff\uff41\uff42\uff43\uff44'
            '\uff45\uff46\uff47\uff48\uff49\uff4a\uff4b\uff4c\uff4d\uff4e\uff4f\uff50\uff51\uff52\uff53\uff54'
            '\uff55\uff56\uff57\uff58\uff59\uff5a\u03c3\u03bcsoldi\u0435\u0627\u0627\u0627')
        ELSE lower(given COLLATE "C") END;
END;

-- What a message is found by: its words; pairs of them that stand side by side (of each four letters), for phrases of
-- words that are common; of scripts that have no spaces three characters together, from each place on (`grams`); and what
-- filters ask for, which begins with # as no word does. #0 to #5 say when, in slices of 4 minutes to 99 days: so the index
-- itself finds the newest of what is common. It calls nothing of ours: a dump is read back where no schema is on the path.
CREATE FUNCTION chat_terms_of(words text[], grams text[], id bigint, given text, room bigint, sender text, content text)
RETURNS tsvector LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    terms text[] := words;
    count int := cardinality(words);
BEGIN
    FOR n IN 1 .. count - 1 LOOP
        terms[count + n] := left(words[n], 4) || ' ' || left(words[n + 1], 4);
    END LOOP;
    terms := terms || ARRAY['#0' || (id >> 38), '#1' || (id >> 41), '#2' || (id >> 44), '#3' || (id >> 47),
        '#4' || (id >> 50), '#5' || (id >> 53), '#r' || room];
    IF sender IS NOT NULL THEN
        terms := terms || ('#u' || left(sender, 250));
    END IF;
    IF strpos(given, '.') > 0 OR strpos(given, '/') > 0 THEN
        IF lower(given COLLATE "C") ~ 'https?://|www\.' THEN
            terms := terms || '#hlink'::text;
        END IF;
    END IF;
    IF strpos(content, '"attachments":[{') > 0 THEN
        terms := terms || '#hattachment'::text;
    END IF;
    RETURN array_to_tsvector(terms || grams);
END
$$;

CREATE FUNCTION chat_terms_folded(id bigint, given text, room bigint, sender text, content text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT chat_terms_of(
        ARRAY(SELECT left(word[1], 250) FROM regexp_matches(folded,
            '[^\x00-/:-@\[-`{-\x7f\u0080-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u00d7\u00f7\u02c2-'
            '\u02c5\u02d2-\u02df\u0375\u037e\u0384\u0385\u0387\u055a-\u055f\u0589-\u058f\u05be\u05c0\u05c3\u05c6'
            '\u05f3-\u060f\u061b-\u061f\u066a-\u066d\u06d4\u06dd\u06de\u06e9\u06fd\u06fe\u0700-\u070f\u07f6-'
            '\u07f9\u0964\u0965\u0970\u0df4\u0e3f\u0e4f\u0e5a\u0e5b\u0f01-\u0f17\u0f3a-\u0f3d\u104a-\u104f\u10fb'
            '\u1360-\u1368\u1680\u17d4-\u17d6\u17d8-\u17db\u1800-\u180a\u180e\u1fbd\u1fbf-\u1fc1\u1fcd-\u1fcf'
            '\u1fdd-\u1fdf\u1fed-\u1fef\u1ffd-\u206f\u207a-\u207e\u208a-\u208e\u20a0-\u20ff\u2100\u2101\u2103-'
            '\u2106\u2108\u2109\u2114\u2116-\u2118\u211e-\u2123\u2190-\u245f\u249c-\u24e9\u2500-\u2775\u2794-'
            '\u2bff\u2e00-\u2e2e\u2e30-\u3004\u3008-\u3020\u3030\u3036\u3037\u303d-\u303f\u309b\u309c\u30a0\u30fb'
            '\u3200-\u321e\u322a-\u3247\u3250\u3260-\u327f\u328a-\u32b0\u32c0-\u33ff\u4dc0-\u4dff\ufd3e\ufd3f'
            '\ufdfc\ufdfd\ufe00-\ufe19\ufe30-\ufe6b\ufeff-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-'
            '\ufffd\U0001f000-\U0001f0ff\U0001f110-\U0001faff\U000e0000-\U000e01ef\u0e01-\u0e3a\u0e40-\u0e4e'
            '\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u109d\u1100-\u11ff\u1780-\u17d3\u17d7\u3005-\u3007'
            '\u3031-\u3035\u303b\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u312f\u3131-\u318e\u31f0-\u31ff'
            '\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]+', 'g')
            WITH ORDINALITY AS found (word, place) ORDER BY place),
        ARRAY(SELECT substr(run[1], place, 3) FROM regexp_matches(folded,
            '[\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u109d\u1100-\u11ff\u1780-'
            '\u17d3\u17d7\u3005-\u3007\u3031-\u3035\u303b\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u312f'
            '\u3131-\u318e\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f'
            '\U00020000-\U0003ffff]+', 'g') AS run,
            generate_series(1, length(run[1])) AS place),
        id, given, room, sender, content)
    FROM chat_fold(given) AS folded;
END;

-- The same where all is ASCII, which needs no folding; a word of more than 250 characters is cut above.
CREATE FUNCTION chat_terms(id bigint, given text, room bigint, sender text, content text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN length(given) > 250 OR given ~ '[^\n -~]'
        THEN chat_terms_folded(id, given, room, sender, content)
        ELSE chat_terms_of(
            string_to_array(btrim(regexp_replace(lower(given COLLATE "C"), '[^0-9a-z]+', ' ', 'g')), ' '), NULL,
            id, given, room, sender, content) END;
END;

ALTER TABLE chat_messages ADD COLUMN terms tsvector GENERATED ALWAYS AS (
    CASE WHEN deleted_ms = 0 AND hidden_ms = 0 THEN chat_terms(id, text, room, sender, content) END) STORED;
-- The list of what is not sorted in yet is read by every search: it stays short.
CREATE INDEX chat_messages_found ON chat_messages USING gin (terms) WITH (gin_pending_list_limit = 512);
CREATE INDEX chat_messages_newest ON chat_messages (id);

-- Words that may have a stem, and what was said since they were listed; and what was unsaid, whose words may be nobody's
-- any more. `pruned` counts how often words were taken from the list: search/forms.py.
CREATE TABLE chat_words (word text COLLATE "C" PRIMARY KEY);
CREATE TABLE chat_unlisted (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message bigint NOT NULL);
CREATE TABLE chat_unsaid (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL);
CREATE TABLE chat_listing (pruned bigint NOT NULL);

INSERT INTO chat_listing (pruned) VALUES (0);
INSERT INTO chat_unlisted (message) SELECT id FROM chat_messages;

CREATE FUNCTION chat_unlist() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO chat_unsaid (text) SELECT text FROM was WHERE text <> '';
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO chat_unlisted (message) SELECT id FROM said WHERE text <> '';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER chat_words_said AFTER INSERT ON chat_messages
    REFERENCING NEW TABLE AS said FOR EACH STATEMENT EXECUTE FUNCTION chat_unlist();
CREATE TRIGGER chat_words_changed AFTER UPDATE ON chat_messages
    REFERENCING OLD TABLE AS was NEW TABLE AS said FOR EACH STATEMENT EXECUTE FUNCTION chat_unlist();
CREATE TRIGGER chat_words_unsaid AFTER DELETE ON chat_messages
    REFERENCING OLD TABLE AS was FOR EACH STATEMENT EXECUTE FUNCTION chat_unlist();
