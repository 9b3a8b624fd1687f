mod error; mod files; mod frame; mod record; mod recover; mod space;
