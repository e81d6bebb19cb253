"""See the design: one room of Millrace."""
