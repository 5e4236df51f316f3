"""How golden signals enter the agent: receive, decode, keep in windows, judge whether they can be trusted, show."""
