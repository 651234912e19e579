insert into notes (version, title, body) values (
    '1.0',
    'The first release',
    'Notes, search and a feed. Add the next one with POST /notes.'
);
