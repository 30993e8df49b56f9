"""A day in the life of a support bot, with four things going wrong: traffic, scenario, runner and live view."""
