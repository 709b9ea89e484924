"""What is inside an echo picture: the sector, and frames made ready for a teacher. No torch here."""
