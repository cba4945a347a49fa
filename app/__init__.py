"""server-flow: stores the progress of users through flows, and shows it live."""
