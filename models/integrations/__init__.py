"""The stores of integrations and their deliveries in MongoDB."""
