"""Pure policies: they turn (event, time) into decisions and own nothing but their queues."""
