"""A model behind an endpoint that speaks OpenAI's API: as a judge, or to be evaluated."""
