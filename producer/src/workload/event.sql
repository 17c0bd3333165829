-- The built-in table event: narrow, about 200 bytes a row with the default payload.

CREATE TABLE public.event (
    id          bigint         PRIMARY KEY,
    created_at  timestamptz    NOT NULL,
    kind        text           NOT NULL,
    user_id     bigint         NOT NULL,
    session     uuid           NOT NULL,
    amount      numeric(12, 2) NOT NULL,
    flag        boolean        NOT NULL,
    source      text,
    payload     text           NOT NULL
);
