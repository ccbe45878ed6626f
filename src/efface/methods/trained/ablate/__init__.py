"""The method `ablate`: Concept Ablation."""
