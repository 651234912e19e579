create table notes (
    id bigint generated always as identity primary key,
    version text not null,
    title text not null,
    body text not null default '',
    published_at timestamptz not null default now()
);
