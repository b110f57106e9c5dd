"""Thirty questions, each asked a second time in other words; no two of them ask the same."""

from __future__ import annotations

PARAPHRASES = [
    ("How do I boil an egg?", "What is the way to cook an egg in boiling water?"),
    ("What is the capital of France?", "Which city is France's capital?"),
    ("Why is the sky blue?", "What makes the sky look blue?"),
    ("Name three animals that live in the sea.", "List three sea animals."),
    ("How can I learn to play the guitar?", "I'd like to play guitar: how do I start learning it?"),
    ("Write a poem about autumn leaves.", "Compose a poem on the leaves of autumn."),
    ("What are the symptoms of a cold?", "How do I know that I have a cold?"),
    ("Explain how photosynthesis works.", "Can you describe the process of photosynthesis?"),
    ("Translate 'good morning' to Spanish.", "How do you say good morning in Spanish?"),
    ("What causes earthquakes?", "Why do earthquakes happen?"),
    ("Give me a recipe for pancakes.", "How are pancakes made? I need a recipe."),
    ("Who wrote Hamlet?", "Who is the author of Hamlet?"),
    ("How do vaccines work?", "Explain the way in which vaccines protect people."),
    (
        "Sort a list of numbers in Python.",
        "Write Python code that puts numbers in order.",
    ),
    ("What is the tallest mountain on Earth?", "Which mountain is the highest in the world?"),
    ("How many legs does a spider have?", "What is the number of legs of a spider?"),
    ("Suggest a name for a new coffee shop.", "What could I call my new coffee shop?"),
    (
        "What is the difference between a virus and a bacterium?",
        "How do bacteria differ from viruses?",
    ),
    ("How do I reset my router?", "What are the steps for resetting a router?"),
    ("Summarise the plot of Romeo and Juliet.", "What happens in Romeo and Juliet? Keep it short."),
    ("How far away is the moon?", "What is the distance from the Earth to the moon?"),
    ("Why do cats purr?", "What is the reason that cats purr?"),
    ("Write a thank-you letter to my teacher.", "Draft a letter that thanks my teacher."),
    ("How can I save money on groceries?", "Give me tips to spend less on groceries."),
    ("What is inflation in economics?", "Explain the economic term inflation."),
    (
        "How do I remove a coffee stain from a shirt?",
        "My shirt has a coffee stain: how do I get it out?",
    ),
    ("What year did World War II end?", "When was the end of World War II?"),
    ("How do airplanes stay in the air?", "What keeps an airplane flying?"),
    ("What is the best time to plant tomatoes?", "When should tomatoes be planted?"),
    ("Is it safe to eat raw eggs?", "Can raw eggs be eaten safely?"),
]
