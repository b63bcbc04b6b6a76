"""Items of evaluations, and the index of their word n-grams that `decontaminate` looks texts up in."""
