"""Provider programs: where they come from, where they are kept, and how they run, shut in."""
