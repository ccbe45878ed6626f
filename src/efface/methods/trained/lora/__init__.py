"""The method `lora`: LECO, concept sliders and ESD as a LoRA."""
