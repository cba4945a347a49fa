"""The stores of integrations and of the deliveries to them."""
