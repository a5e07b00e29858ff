"""What operators see and decide, beside the status: findings of the doctor, what they are told, a message's life."""
