"""Letters to customers."""

import smtplib
from email.message import EmailMessage

SENDER = "orders@shop.example"


def confirm(customer: str, number: str, cents: int) -> None:
    """Tell a customer that an order was paid."""
    send(customer, f"Your order {number}", f"Thank you. We received {cents / 100:.2f} euros.")


def send(customer: str, subject: str, text: str) -> None:
    """Send a letter."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, customer, subject
    message.set_content(text)
    with smtplib.SMTP("localhost") as server:
        server.send_message(message)
