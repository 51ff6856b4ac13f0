"""Real models: shapes, checkpoints, sharded expert math."""
