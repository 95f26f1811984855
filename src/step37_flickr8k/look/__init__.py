"""What people look at: progress, status, report, preview, doctor. Reads what the others wrote, changes nothing of it."""
