"""What every converter and every command needs: errors, files, one reader of rows, console."""
