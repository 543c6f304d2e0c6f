"""Questions about a network on hardware: its noise budget, its cost, the cheapest profile that will do."""
