"""What a large batch does to the minimum: sharpness along trainings and between their ends."""
