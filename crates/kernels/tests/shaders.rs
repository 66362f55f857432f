//! Every shader is valid, can be translated for Metal and Vulkan, and stays within what their devices have.
