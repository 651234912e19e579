alter table notes add column search tsvector generated always as (
    setweight(to_tsvector('english', title), 'A') || setweight(to_tsvector('english', body), 'B')
) stored;
create index notes_search on notes using gin (search);
